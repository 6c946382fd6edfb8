"""Running a sweep on Ray Tune: searcher, slots, forked trial processes, sampler actors, live view."""
