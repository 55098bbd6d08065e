// Linked into programs that run under a leak checker: plugins of Open MPI stay loaded to the end,
// so that what they leak at start-up can be named by module in tests/lsan.supp. Without this their
// stacks read "unknown module" and nothing tells them from leaks of ours.

extern "C" int dlclose(void*) { return 0; }
