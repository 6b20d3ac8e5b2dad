"""Many runs of one recipe: settings are searched, each trial is a run of its own."""
