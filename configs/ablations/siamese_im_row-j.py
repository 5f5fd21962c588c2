_base_ = __import__('simim_plugin').ablation_base()
# Row (j): (i) without the negative term.

model = dict(head=dict(_delete_=True, type='L2Head'))
