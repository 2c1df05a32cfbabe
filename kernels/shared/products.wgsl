// Shared by the tile algorithms of matrix products. A product with kernel taps is
//   C[row, column] = start[column] + sum over taps t and depth k of A[tap t of row, k] B[column, t, k]
// where a tap of a row is some row of A, or lies outside and counts as zeros. A fully connected layer has one tap.

struct Product {
    rows: u32,
    columns: u32,
    taps: u32,
    // Length of the sum within one tap.
    depth: u32,
}

// Where a row of A is read under a kernel tap: its first element, in units of four.
struct Tap { at: u32, inside: bool }

// Four rows of four columns. Named rather than an array, so that every driver keeps them in registers.
struct Tile4x4 { r0: vec4<f32>, r1: vec4<f32>, r2: vec4<f32>, r3: vec4<f32> }

// tile += column a times row b
fn add_outer(tile: ptr<function, Tile4x4>, a: vec4<f32>, b: vec4<f32>) {
    (*tile).r0 += a.x * b;
    (*tile).r1 += a.y * b;
    (*tile).r2 += a.z * b;
    (*tile).r3 += a.w * b;
}

// (a . b0, a . b1, a . b2, a . b3): one row against four rows of the other factor.
fn dots(a: vec4<f32>, b0: vec4<f32>, b1: vec4<f32>, b2: vec4<f32>, b3: vec4<f32>) -> vec4<f32> {
    return vec4(dot(a, b0), dot(a, b1), dot(a, b2), dot(a, b3));
}
