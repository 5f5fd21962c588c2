"""Tests of mmcv's operators without a compiler."""
