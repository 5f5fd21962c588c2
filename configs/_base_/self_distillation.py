# Settings of DINO and iBOT, and some of MSN. `_base_` lists it beside a scale.
distilled = dict(final_norm=True, train_patch_embed=True, drop_path_rate=0.1)
distilled_adamw = dict(betas=(0.9, 0.999), weight_decay=0.04)
distilled_lr = dict(
    type='WarmupCosineLR', eta_min=2e-6, convert_to_iter_based=True)
rising_decay = dict(  # to ten times its start
    type='CosineAnnealingParamScheduler', param_name='weight_decay',
    eta_min_ratio=10, by_epoch=True, convert_to_iter_based=True)
rising_temperature = dict(type='TemperatureHook', start=0.04, end=0.07)
