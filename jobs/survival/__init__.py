"""How a job outlives what the cluster does to it. Imports the files of jobs, not attempt or reporter."""
