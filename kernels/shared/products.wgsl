// Products that keep a tile of a matrix product in registers, four columns at a time.

// (a . b0, a . b1, a . b2, a . b3): one row against four rows of the other factor.
fn dots(a: vec4<f32>, b0: vec4<f32>, b1: vec4<f32>, b2: vec4<f32>, b3: vec4<f32>) -> vec4<f32> {
    return vec4(dot(a, b0), dot(a, b1), dot(a, b2), dot(a, b3));
}

// a.x b0 + a.y b1 + a.z b2 + a.w b3: one row against four columns of the other factor.
fn mix4(a: vec4<f32>, b0: vec4<f32>, b1: vec4<f32>, b2: vec4<f32>, b3: vec4<f32>) -> vec4<f32> {
    return a.x * b0 + a.y * b1 + a.z * b2 + a.w * b3;
}
