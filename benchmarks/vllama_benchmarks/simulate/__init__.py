"""`vllama simulate`: a discrete-event fleet that measures placement policies in minutes instead of GPU hours.

The engines are the step model of the worker's fake engine, the policies and their bookkeeping are the balancer's own
objects, and only the clock is virtual. So the measured code is the shipped code.

- In: `workloads` generates the requests (`workload`) from a seed.
- One run: `simulation` moves requests between clients, a `placement` and engines (`engine_model`); `outcome` counts.
- Placements: `policy_placement` (the balancer's policies), `multi_balancer` (several balancers), `baselines`, `oracle`;
  `variants` are the policy with a term removed; `contenders` lists all by name.
- Many runs: `grid` runs contenders over cells and keeps results in the `archive`; `verdict` compares them with the
  goals; `studies` adds `recheck` (missed goals with other seeds), `ablation`, several balancers and alternating load.
- Loading of models: `alternating_load` runs the real model scheduler on a `simulated_fleet` in `virtual_time`.
- Out: `tables` and `charts`, written by `report`. `tuning` and `decision_time` are measurements of their own.
"""
