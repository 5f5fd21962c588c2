"""Small encoders of each family, built by timm."""

from functools import partial

import timm
import torch

from .capi import Capi
from .helpers import DEPTH, DIMS, HEADS, PATCH, SIZE, scramble

EVA = dict(
    use_abs_pos_emb=False,
    use_rot_pos_emb=True,
    rope_type='dinov3',
    rope_temperature=100.0,
    rope_rotate_half=True,
    num_reg_tokens=4,
    init_values=1e-5,
    qkv_bias=False,
    norm_layer=partial(torch.nn.LayerNorm, eps=1e-5),
    use_fc_norm=False,
    global_pool='token',
    dynamic_img_size=True,
)
EVA02 = dict(
    mlp_ratio=2,
    swiglu_mlp=True,
    use_rot_pos_emb=True,
    ref_feat_shape=(16, 16),
    use_fc_norm=False,
    global_pool='token',
    dynamic_img_size=True,
)
TIMM = {
    'dinov2': ('ViT', dict(init_values=1e-5)),
    'dinov2-registers': (
        'ViT',
        dict(init_values=1e-5, reg_tokens=4, no_embed_class=True),
    ),
    'dinov2-giant': (
        'ViT',
        dict(
            init_values=1e-5,
            mlp_ratio=5.5,
            mlp_layer=timm.layers.SwiGLUPacked,
            act_layer=torch.nn.SiLU,
        ),
    ),
    'dinov3': ('Eva', EVA),
    'dinov3-qkv-bias': ('Eva', {**EVA, 'qkv_bias': True}),
    'dinov3-plus': (
        'Eva',
        {**EVA, 'swiglu_mlp': True, 'swiglu_align_to': 8},
    ),
    'eva02': ('Eva', EVA02),
    'eva02-norm': ('Eva', {**EVA02, 'qkv_fused': False, 'scale_mlp': True}),
    'eva02-clip': (
        'Eva',
        {
            **EVA02,
            'qkv_fused': False,
            'scale_mlp': True,
            'scale_attn_inner': True,
        },
    ),
    'beit': (
        'Beit',
        dict(init_values=0.1, use_rel_pos_bias=True, use_abs_pos_emb=False),
    ),
    'beit-shared': (
        'Beit',
        dict(
            init_values=0.1,
            use_shared_rel_pos_bias=True,
            use_abs_pos_emb=False,
        ),
    ),
    'i-jepa': ('ViT', dict(class_token=False, global_pool='avg')),
    'siglip': ('ViT', dict(class_token=False, global_pool='map')),
    'clip': ('ViT', dict(pre_norm=True, norm_layer=EVA['norm_layer'])),
    'deit3': ('ViT', dict(init_values=1e-5, no_embed_class=True)),
    'qk-norm': ('ViT', dict(qk_norm=True)),
    'deit-distilled': ('Distilled', {}),
    'augreg': ('ViT', {}),
    'capi': ('Capi', {}),  # in no library
}
CLASSES = {
    'ViT': timm.models.VisionTransformer,
    'Eva': timm.models.eva.Eva,
    'Beit': timm.models.beit.Beit,
    'Distilled': timm.models.deit.VisionTransformerDistilled,
    'Capi': Capi,
}
NAMES = {
    'dinov2': 'DINOv2',
    'dinov2-registers': 'DINOv2 with registers',
    'dinov2-giant': 'DINOv2',
    'dinov3': 'DINOv3',
    'dinov3-qkv-bias': 'DINOv3',
    'dinov3-plus': 'DINOv3',
    'eva02': 'EVA-02',
    'eva02-norm': 'EVA-02',
    'eva02-clip': 'EVA-02 CLIP',
    'beit': 'BEiT',
    'beit-shared': 'BEiT',
    'i-jepa': 'I-JEPA',
    'siglip': 'SigLIP',
    'clip': 'CLIP',
    'deit3': 'DeiT-III',
    'qk-norm': 'plain ViT',
    'deit-distilled': 'DeiT',
    'augreg': 'plain ViT',
    'capi': 'CAPI',
}


def timm_model(kind, size=SIZE):
    cls, options = TIMM[kind]
    model = CLASSES[cls](
        img_size=size,
        patch_size=PATCH,
        embed_dim=DIMS,
        depth=DEPTH,
        num_heads=HEADS,
        num_classes=0,
        **options,
    )
    return scramble(model)


def saved(kind, folder):
    """Save an encoder as timm does; return the model and the file."""
    model = timm_model(kind)
    torch.save(model.state_dict(), folder / 'encoder.pth')
    return model, folder / 'encoder.pth'
