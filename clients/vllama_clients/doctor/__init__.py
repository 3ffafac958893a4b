"""The checks of `vllama doctor`: what would keep vllama from serving on this machine, and what to do about it.

`probes` measures the machine and changes nothing; `findings` turns each measurement into a verdict with advice.
"""
