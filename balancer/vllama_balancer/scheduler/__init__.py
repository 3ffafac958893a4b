"""Which models are loaded where: loading on demand, keep_alive, eviction, sleep, and scaling.

A request comes in through on_demand.py, the Gateway in front of the dispatcher. scheduler.py (ModelScheduler) keeps its
model loaded while it runs in the dispatcher. What the scheduler consists of:

- machine.py holds the models of the machine; model.py has what is recorded of one model, state.py the states of a slot;
- decisions.py decides from that what to do next: pure functions, without tasks or clocks;
- loader.py, unloader.py and autoscale.py do it: they load, unload, and change the number of replicas;
- sleeping.py has the models that sleep in the host's memory;
- replicas.py starts and ends the workers at the slots; memory.py checks first whether they have the memory;
- settings.py has the settings, and the interfaces to the fleet (WorkerLauncher) and to the pool (WatchedPool).
"""
