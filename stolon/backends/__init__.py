"""Who answers. Each backend is a module of its own, imported when it is used."""
