# SPDX-License-Identifier: Apache-2.0
"""Data sets, and the batches made of them.

A training batch is made in `batches.py` by these steps:

1. `open_source.py` opens a data set: `tfds.py`, `folder.py`, `digits.py` or `synthetic.py`
   returns a `Source` (`source.py`), which gives random access to examples.
2. `sampling.py` draws the order of the examples and the seeds of their augmentation.
3. `decoding.py` turns the bytes of an image file into pixels.
4. `crops.py` crops and resizes images to fixed views in evaluation; `augment.py` draws the
   random views of training. Colour distortion and normalisation, also in `augment.py`, run
   on the device.
5. `prefetch.py` loads batches ahead, in threads or in worker processes.

`inception-jax data check` is `check.py`; `inception-jax data bench` is `bench.py`.

TensorFlow is not needed. The packages of the `data` extra are imported on first use.
"""
