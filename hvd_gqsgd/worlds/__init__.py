"""Where a scheme can run without Horovod.

loopback   n virtual ranks in one process: every n is tested without MPI
"""
