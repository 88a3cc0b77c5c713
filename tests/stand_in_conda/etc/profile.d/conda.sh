# Sourced by mlflow, which then says `conda activate NAME`.
conda() {
    [ "$1" = activate ] && [ -d "$STAND_IN_CONDA/$2" ]
}
