"""From ragged samples to a grid: resampling, counters, the push buffer, data checks."""
