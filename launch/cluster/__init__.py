"""Where jobs run: Slurm, or this machine. Alone knows submitit and sbatch; imports flags and console."""
