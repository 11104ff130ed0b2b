"""Where rows come from. One file a source kind."""
