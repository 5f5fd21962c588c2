"""Speed and memory, as ratios to yardsticks timed in the same run."""
