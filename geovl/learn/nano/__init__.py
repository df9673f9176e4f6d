"""The recipe of the bundled model: data, network, training, export and figures."""
