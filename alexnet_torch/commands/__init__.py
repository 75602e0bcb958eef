"""The commands of python -m alexnet_torch, one module each: what a trained run can be used for.

Each command imports what it calls when it runs: torch takes seconds to import, which --help and a wrong command line
do not need.
"""
