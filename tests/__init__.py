from simim_plugin.environment import distributions

UPSTREAM = 'mmengine' in distributions('mmengine')
"""Whether the libraries are OpenMMLab's own, not the OneDL forks."""
