"""unit/ opens no socket, integration/ runs against real servers, bench/ measures, support/ is shared."""
