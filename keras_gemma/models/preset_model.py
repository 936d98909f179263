import keras


class PresetModel(keras.Model):
    pass
