"""The command line: every command, light to start; torch is imported inside commands only."""
