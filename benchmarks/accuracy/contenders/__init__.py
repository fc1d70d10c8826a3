"""Ways to bring n workers' gradients together, each a pure function: gradients and a generator in, an Estimate out.

Their sources are the papers' arXiv numbers and the sections of shared/papers.md, where they are summed up.
"""
