// Element type of activations in a call with 16-bit operands: takes the place of activation.wgsl.
alias Activation = f16;
alias Activation4 = vec4<f16>;
