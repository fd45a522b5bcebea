"""Language models that are not under test, by which texts are judged."""
