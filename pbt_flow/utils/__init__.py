"""Small tools that know nothing of Population Based Training."""
