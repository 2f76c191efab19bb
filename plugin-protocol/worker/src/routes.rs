use std::collections::HashMap;

use gearway_protocol::HandlerSpec;

use crate::Error;
use crate::handler::{Route, Run};
use crate::pattern::Pattern;

/// A worker's handlers: no two of them claim the same path and method.
pub(crate) struct Routes {
    routes: Vec<Route>,
    by_name: HashMap<String, Vec<usize>>,
}

const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];

impl Routes {
    /// # Errors
    /// [`Error::Route`] about the first handler that cannot be registered beside those before it.
    pub(crate) fn new(routes: Vec<Route>) -> Result<Self, Error> {
        let patterns: Vec<Pattern> = routes.iter().map(|route| Pattern::new(&route.spec.name)).collect();
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, Route { spec, .. }) in routes.iter().enumerate() {
            let refuse = |reason| Err(Error::Route { handler: spec.name.clone(), reason });
            if spec.methods.is_empty() {
                return refuse("takes no method at all".to_owned());
            }
            if let Some(method) = spec.methods.iter().find(|method| !METHODS.contains(&method.as_str())) {
                return refuse(format!("{method} is none of {}", METHODS.join(", ")));
            }
            let earlier = routes.iter().zip(&patterns).take(index);
            for (other, pattern) in earlier {
                if !pattern.same_paths(&patterns[index]) {
                    continue;
                }
                if let Some(method) = spec.methods.iter().find(|method| other.spec.methods.contains(method)) {
                    return refuse(format!("{method} is taken by an earlier handler, {:?}", other.spec.name));
                }
            }
            by_name.entry(spec.name.clone()).or_default().push(index);
        }
        Ok(Self { routes, by_name })
    }

    /// In the order in which they were added.
    pub(crate) fn specs(&self) -> impl Iterator<Item = &HandlerSpec> {
        self.routes.iter().map(|route| &route.spec)
    }

    /// The handler of the name that was registered, and the method.
    pub(crate) fn find(&self, name: &str, method: &str) -> Option<Run> {
        self.by_name
            .get(name)?
            .iter()
            .map(|index| &self.routes[*index])
            .find(|route| route.spec.methods.iter().any(|known| known == method))
            .map(|route| route.run.clone())
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::handler;

    fn refusal(routes: Vec<Route>) -> String {
        Routes::new(routes).err().expect("refused").to_string()
    }

    #[test]
    fn a_path_and_method_have_one_handler() {
        let text = refusal(vec![handler("a:{x}", async || ()), handler("/a/{y}", async || ())]);
        assert_eq!(text, r#"handler "/a/{y}": GET is taken by an earlier handler, "a:{x}""#);
        let split = vec![
            handler("a", async || ()).methods([Method::GET]),
            handler("a", async || ()).methods([Method::POST]),
        ];
        let routes = Routes::new(split).unwrap();
        assert!(routes.find("a", "GET").is_some() && routes.find("a", "POST").is_some());
        assert!(routes.find("a", "PUT").is_none() && routes.find("/a", "GET").is_none());
    }

    #[test]
    fn methods_are_those_that_a_gateway_routes() {
        assert!(refusal(vec![handler("a", async || ()).methods([])]).contains("no method"));
        assert!(refusal(vec![handler("a", async || ()).methods([Method::CONNECT])]).contains("CONNECT"));
    }
}
