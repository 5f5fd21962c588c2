_base_ = __import__('simim_plugin').ablation_base()
# Row (i): SiameseIM, the unchanged base.
