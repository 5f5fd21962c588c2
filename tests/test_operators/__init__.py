"""mmcv's operators without a compiler."""
