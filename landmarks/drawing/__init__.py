"""The embedded default source: labelled faces drawn by a program, in place of a download.

Read `people` first (labels and styles), then `canvas` (shapes and blending), `head`, `features`,
`hair` and `accessories` (the parts of a face, in the order in which they depend on each other), and
last `faces`, which puts a face together and is the command that writes CelebA's layout.
"""
