//! The constants of an ONNX graph under the names of the modules that it was exported from.
//!
//! PyTorch's exporter keeps the name of a parameter that a node takes as it is. What it changes first, as the matrix of
//! a linear layer, which it transposes, gets a number for a name: there the node's name says whose it is.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use prost::Message;

/// f32 values and their shape.
pub type Array = (Vec<usize>, Vec<f32>);

// The parts of onnx.proto that a graph's constants need.

#[derive(Message)]
struct Model {
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
}

#[derive(Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    nodes: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    initializers: Vec<Tensor>,
}

#[derive(Message)]
struct Node {
    #[prost(string, repeated, tag = "1")]
    inputs: Vec<String>,
    #[prost(string, tag = "3")]
    name: String,
}

#[derive(Message)]
struct Tensor {
    #[prost(int64, repeated, tag = "1")]
    shape: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    bytes: Vec<u8>,
}

/// `TensorProto.DataType.FLOAT`.
const FLOAT: i32 = 1;

/// Reads all f32 constants of a graph. One that the exporter numbered is named after the node that takes it: the matrix
/// of a `MatMul` as `<module>.weight`, turned back to PyTorch's `[outputs, inputs]`; any other as the node.
pub fn constants(bytes: &[u8]) -> Result<BTreeMap<String, Array>> {
    let model = Model::decode(bytes).context("not an ONNX file")?;
    let graph = model.graph.context("the ONNX file has no graph")?;
    let mut takers = BTreeMap::new();
    for node in &graph.nodes {
        for input in &node.inputs {
            takers.entry(input.as_str()).or_insert(node);
        }
    }
    let mut constants = BTreeMap::new();
    for tensor in &graph.initializers {
        if tensor.data_type != FLOAT {
            continue;
        }
        let (shape, values) = values(tensor)?;
        let (name, array) = match takers.get(tensor.name.as_str()) {
            Some(node) if tensor.name.starts_with("onnx::") => {
                let module = node.name.trim_start_matches('/').replace('/', ".");
                match module.strip_suffix(".MatMul") {
                    Some(module) => (format!("{module}.weight"), transposed(&shape, &values)?),
                    None => (module, (shape, values)),
                }
            }
            _ => (tensor.name.clone(), (shape, values)),
        };
        if constants.insert(name.clone(), array).is_some() {
            bail!("two constants of the ONNX graph come to the name `{name}`");
        }
    }
    Ok(constants)
}

fn values(tensor: &Tensor) -> Result<Array> {
    let name = &tensor.name;
    let extents = tensor.shape.iter().map(|&extent| usize::try_from(extent));
    let shape: Vec<usize> = (extents.collect::<Result<_, _>>()).with_context(|| name.clone())?;
    let count = shape
        .iter()
        .try_fold(4usize, |count, &extent| count.checked_mul(extent));
    ensure!(
        count == Some(tensor.bytes.len()),
        "constant `{name}`: {} bytes for {shape:?}",
        tensor.bytes.len()
    );
    let values = tensor.bytes.chunks_exact(4);
    let values = values.map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    Ok((shape, values.collect()))
}

fn transposed(shape: &[usize], values: &[f32]) -> Result<Array> {
    let &[inputs, outputs] = shape else {
        bail!("the matrix of a product has the shape {shape:?}");
    };
    let at = |output: usize| (0..inputs).map(move |input| values[input * outputs + output]);
    Ok((vec![outputs, inputs], (0..outputs).flat_map(at).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, shape: &[i64], values: &[f32]) -> Tensor {
        Tensor {
            shape: shape.to_vec(),
            data_type: FLOAT,
            name: name.into(),
            bytes: values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        }
    }

    fn node(name: &str, inputs: &[&str]) -> Node {
        Node {
            inputs: inputs.iter().map(|&input| input.to_owned()).collect(),
            name: name.into(),
        }
    }

    fn file(initializers: Vec<Tensor>, nodes: Vec<Node>) -> Vec<u8> {
        let graph = Some(Graph {
            nodes,
            initializers,
        });
        Model { graph }.encode_to_vec()
    }

    #[test]
    fn numbered_constants_are_named_after_their_nodes() {
        let constants = constants(&file(
            vec![
                tensor("a.bias", &[2], &[1.0, 2.0]),
                tensor("onnx::MatMul_7", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
                tensor("onnx::Concat_8", &[1, 1], &[9.0]),
            ],
            vec![
                node("/a/fc/MatMul", &["x", "onnx::MatMul_7"]),
                node("/a/Add", &["y", "a.bias"]),
                node("/a/Concat_1", &["onnx::Concat_8", "z"]),
            ],
        ));
        let constants = constants.expect("a graph");
        assert_eq!(constants["a.bias"], (vec![2], vec![1.0, 2.0]));
        let matrix = vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0];
        assert_eq!(constants["a.fc.weight"], (vec![3, 2], matrix));
        assert_eq!(constants["a.Concat_1"], (vec![1, 1], vec![9.0]));
    }

    #[test]
    fn bad_files_are_errors() {
        assert!(constants(b"no protobuf at all").is_err());
        assert!(constants(&[]).is_err());
        for shape in [&[3][..], &[-1], &[i64::MAX, i64::MAX]] {
            let bad = file(vec![tensor("a", shape, &[1.0])], vec![]);
            assert!(constants(&bad).is_err(), "{shape:?}");
        }
        let twice = vec![tensor("a", &[1], &[1.0]), tensor("a", &[1], &[1.0])];
        assert!(constants(&file(twice, vec![])).is_err());
        let whole = file(vec![tensor("a", &[1], &[1.0])], vec![]);
        assert!(constants(&whole[..whole.len() - 1]).is_err());
    }
}
