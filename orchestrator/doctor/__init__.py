"""`tandem doctor`: what a job will meet on this machine, its storage and its cluster, each with its remedy.

examine.py    the table of checks, and what a spec asks of them
finding.py    what a check says
software.py   Python, packages
gpus.py       GPUs, their driver, and PyTorch's CUDA
machine.py    cores, memory, /dev/shm, temporary disk, open files
storage.py    rights and speed below storage.root
cluster.py    the Ray cluster that the environment names

A check measures and judges: what it measures with is an argument, so that tests need no machine of the kind.
"""
