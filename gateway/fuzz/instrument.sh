#!/bin/sh
# Cargo's RUSTC_WRAPPER for the smoke in CI: adds coverage to the gateway and the targets alone, so that the dependencies are the
# same as those of the other builds, and on a stable compiler. `cargo fuzz` instruments everything and needs none of this.
rustc=$1
shift
case " $* " in
*" --crate-name gearway "* | *" --crate-name gearway_protocol "* | *" fuzz_targets/"*)
	exec "$rustc" "$@" --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
		-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
		-Cllvm-args=-sanitizer-coverage-trace-compares
	;;
esac
exec "$rustc" "$@"
