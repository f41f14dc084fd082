"""A module of one's own, as users have beside their script: what a model registers."""

import keras


@keras.saving.register_keras_serializable("tests")
class Scaled(keras.layers.Layer):
    def __init__(self, by=2.0, **kwargs):
        super().__init__(**kwargs)
        self.by = by

    def call(self, inputs):
        return inputs * self.by

    def get_config(self):
        return super().get_config() | {"by": self.by}


@keras.saving.register_keras_serializable("tests")
def doubled_error(y_true, y_pred):
    return 2 * keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


def not_registered(y_true, y_pred):
    return keras.ops.mean(y_pred, axis=-1)
