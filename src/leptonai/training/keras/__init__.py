"""Keras on the platform: `model.fit(x, y, client=client)` trains in a job, on many workers.

A `LeptonClient` that is made teaches `keras.Model` the argument; without it Keras does what it
always did, and `unwrap()` takes it back. Here, that is on the person's machine:

    wrapping    the argument                       shipping    model and arrays as files, no pickle
    remote      a call as a job                    callbacks   which go along, which stay here
    following   the job's log on the screen        returning   weights and results

and in the job: `worker`, `dealing` (who trains on which samples), `together` (as one), `keeping`
(checkpoints) and `printing`. Nothing here imports Keras before somebody else has.
"""

from leptonai.training.keras.wrapping import unwrap, wrap

__all__ = ["unwrap", "wrap"]
