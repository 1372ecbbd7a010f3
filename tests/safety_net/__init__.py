"""The safety net: what a rebuilding must not change, recorded by public commands, compared to the last digit.

Three parts, each measured by the environment that has its packages, recorded in `tests/oracle/safety_net/`:

- `data`: every file of a small toy world (`python -m egogen.toy`), in both environments;
- `stage1`: descriptions, journal and features (`llava.describe`, npy and compact), their merging, trainings
  of all weights and of adapters (`llava.train`), the toy LLaVA (`llava.toy`);
- `stage2`: the toy Stable Diffusion (`ldm.toy`); trainings of one data set, two, cached latents, the compact
  store, the published variant and InstructPix2Pix (`ldm.train`): loss and gradient norm of every step, every
  tensor; four frames of each method (`ldm.sample`); their metrics by random networks (`ldm.evaluate`).

Only commands and file formats are used, no internals: the same files run before and after things have moved.
Where the recording's fingerprint (processor, Python, libraries that compute) equals this machine's, all must
be equal to the last bit; elsewhere texts and names must be equal and numbers within the tolerances of
`record.py`. A change on purpose is recorded anew and named, in `tests/oracle/safety_net/README.md`, by
`python -m tests.safety_net PART --record "why"`.
"""
