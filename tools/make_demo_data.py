"""Make the demo data: python tools/make_demo_data.py OUT [--help]."""

from simim_plugin.commands import run

if __name__ == '__main__':
    run('make_demo_data')
