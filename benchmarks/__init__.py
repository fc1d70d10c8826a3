"""What compression gains, measured: kernels, exchange and steps, on hosts and links that the commands make themselves.

    python -m benchmarks.kernels     block norms, encode, decode against memcpy
    python -m benchmarks.exchange    one exchange against the raw allreduce of as many words
    python -m benchmarks.steps       training steps of every contender, by model, link and number of hosts
    python -m benchmarks.overhead    Python's part, per gradient
    python -m benchmarks.profile     where one step's time goes
    python -m benchmarks.containers  bytes a step between containers
    python -m benchmarks.report      tables and plots from the JSON that ``steps`` wrote

README.md beside this file says what each one shows and what it needs.
"""
