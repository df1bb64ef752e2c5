"""An example plugin: the connector ``qpool``."""
