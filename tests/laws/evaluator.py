def check(world, artifacts, root, counts): pass
