"""Run folder -> what people look at: HTML pages, terminal tables, comparisons, single examples."""
