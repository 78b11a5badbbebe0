"""The one place where Triton's CPU interpreter is put right."""
import sys


def repair_interpreter() -> None:
    """Let a number that a kernel has loaded be a bound of `range`, which Triton 3.6 cannot do beside NumPy 2.4."""
    interpreter = sys.modules.get("triton.runtime.interpreter")
    if interpreter is None or not sys.modules["triton"].__version__.startswith("3.6."):
        return
    patch_tensor = interpreter._patch_lang_tensor
    if patch_tensor.__name__ == "patch_tensor_and_index":
        return

    def patch_tensor_and_index(tensor, scope) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_tensor_and_index
