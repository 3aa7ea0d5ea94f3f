"""`penstock tune`: the workers, threads, batch size and wait that serve a model best under a latency objective."""
