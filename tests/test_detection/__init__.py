"""Tests of detection: components, data, configs and short runs."""

from simim_plugin import config_path

DEMO = config_path('siamese_im_vit-micro-p8_vitdet-1xb4-1000it_demo.py')
DEMO_LVIS = config_path(
    'siamese_im_vit-micro-p8_vitdet-1xb4-1000it_demo-lvis.py'
)
