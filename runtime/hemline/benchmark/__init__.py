"""`hemline bench`: calls timed in turns, their statistics, the report, and comparisons."""
