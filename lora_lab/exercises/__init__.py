"""The course's exercises: the engine in ``engine``, and one module of exercises for each notebook."""
