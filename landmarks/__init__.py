"""The landmark stage: finds the 68 landmarks of every face once and writes a data set folder.

It is the only package that needs dlib; training and evaluation read the finished folder. Read
`sources` first (where faces and labels come from), then `detector` and `plausibility` (how a face
and its landmarks are found), `shards` and `work_folder` (what is written, and how an interrupted
run resumes), `workers` and `task` (who makes the shards), and last `stage` with the commands
`precompute` and `beam_pipeline`. `drawing` draws the faces of the default source.
"""
