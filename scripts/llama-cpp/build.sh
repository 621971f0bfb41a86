# Sourced by the scripts that stand costmark beside llama.cpp; `root` must be set. Sets `cache`
# ($COSTMARK_CACHE, default ~/.cache/costmark-llama-cpp), `python` (of a virtual environment with
# what these scripts import), `source` (llama.cpp as the llama-cpp-python package carries it),
# `build` (binaries in $build/bin) and `jobs`, and defines `build_llama_cpp TARGET…`.
cache=${COSTMARK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/costmark-llama-cpp}
version=0.3.36
jobs=${JOBS:-$(nproc)}

mkdir -p "$cache"
python=$cache/venv/bin/python
if [ ! -x "$python" ]; then
    python3 -m venv "$cache/venv"
fi
"$python" -m pip install --quiet --requirement "$root/scripts/llama-cpp/requirements.txt"
export PATH=$cache/venv/bin:$PATH

source=$cache/llama_cpp_python-$version
if [ ! -d "$source" ]; then
    "$python" -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation \
        --dest "$cache" "llama-cpp-python==$version"
    tar -xzf "$cache/llama_cpp_python-$version.tar.gz" -C "$cache"
fi
build=$cache/build-$version

# Builds with native flags what is not there yet. The server comes without its page for browsers,
# which would be fetched while building.
build_llama_cpp() {
    local target missing=()
    for target in "$@"; do
        [ -x "$build/bin/$target" ] || missing+=("$target")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    cmake -S "$source/vendor/llama.cpp" -B "$build" -G Ninja \
        -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=ON \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=ON \
        -DLLAMA_BUILD_APP=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF >"$build.log"
    cmake --build "$build" -j "$jobs" --target "${missing[@]}" >>"$build.log"
}
