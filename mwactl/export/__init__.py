"""Export: two graphs, the proof that they compute what torch computes, int8 behind a gate, and the folder to deploy."""
