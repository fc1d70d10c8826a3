"""What every rank runs: a module with ``run(options) -> results``, called inside of an initialised Horovod."""
