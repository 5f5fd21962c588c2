#!/bin/sh
# Makes an environment with this package, editable, and the pinned versions of
# a stack. What stands already is left alone.
#
#     requirements/install.sh PYTHON ENVIRONMENT onedl|upstream EXTRAS
set -eu
cd "$(dirname "$0")/.."
python=$1 environment=$2 stack=$3 extras=$4

# Another folder, Python or requirement makes another state.
state=$({ pwd; "$python" -V; cat setup.py requirements/*; } | cksum)
installed=$environment/.$extras-${state%% *}
test ! -e "$installed" || exit 0

pip_install() {
	"$environment/bin/python" -m pip install --disable-pip-version-check \
		--constraint requirements/constraints.txt \
		--constraint "requirements/$stack.txt" "$@"
}

test "$("$environment/bin/python" -V 2>&1)" = "$("$python" -V)" ||
	"$python" -m venv --clear "$environment"
pip_install setuptools wheel
# In an environment of pip's, a build leaves its egg-info in this folder. With
# torch at hand, mmcv would compile its operators.
MMCV_WITH_OPS=0 pip_install --no-build-isolation --editable ".[$extras]"
if test "$stack" = upstream; then
	# mim without its opendatalab, which wants setuptools 60.
	pip_install colorama pandas tabulate
	pip_install --no-deps openmim
fi
# A second opinion for tests of losses, without its Lightning and Hydra.
case $extras in
*dev*) pip_install --no-deps lightly lightly_utils ;;
esac
# The stack asks for two OpenCVs, which write the same files. The one that
# comes last wins, and the other needs libGL.
pip_install --no-deps --force-reinstall opencv-python-headless
touch "$installed"
