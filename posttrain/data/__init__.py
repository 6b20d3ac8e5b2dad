"""Rows of any shape -> records -> packed, masked tokens; every row accounted for."""
